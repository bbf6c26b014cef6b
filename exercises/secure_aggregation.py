"""Lesson 7: masks that cancel, shares of a secret, and a sum after a dropout.

All numbers are integers modulo a prime q. Clients are numbered from 1.
"""

from __future__ import annotations


def masked(value: int, me: int, masks: dict[int, int], q: int) -> int:
    """What client `me` sends.

    Parameters
    ----------
    value : int
        The client's secret number.
    me : int
        The client's own number.
    masks : dict from int to int
        The mask shared with each other client. Of a pair, the one with the smaller number adds it, the other
        subtracts it.
    q : int

    Returns
    -------
    int
        From 0 to q - 1.
    """
    raise NotImplementedError


def recover(shares: dict[int, int], q: int) -> int:
    """The secret, from as many Shamir shares as the threshold.

    Parameters
    ----------
    shares : dict from int to int
        The value of a polynomial at each client's number. The secret is its value at 0, and the polynomial's
        degree is one less than the number of shares given.
    q : int
        A prime.

    Hint: Lagrange: sum of share_i times the product of j / (j - i) over the other clients j. Division modulo
    q is multiplication by pow(x, -1, q).
    """
    raise NotImplementedError


def unmask(messages: dict[int, int], lost: int, masks_of_lost: dict[int, int], q: int) -> int:
    """The sum of the survivors' secrets, after client `lost` sent nothing.

    Parameters
    ----------
    messages : dict from int to int
        What the survivors sent: each still contains the mask shared with `lost`.
    lost : int
    masks_of_lost : dict from int to int
        The masks that `lost` shared with every survivor, recovered from shares.
    q : int

    Hint: which survivors added their mask with `lost`, and which subtracted it?
    """
    raise NotImplementedError

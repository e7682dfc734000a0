"""Errors whose text is meant for the person at the keyboard."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend: the text says what was given, what is allowed and what to do next."""

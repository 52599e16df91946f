"""The one exception for what a user can mend."""


class UserError(Exception):
    """Something that the user can mend; the command line prints it and exits with code 2.

    The message reads `<what> for '<which>': got X, expected Y; do Z`.
    """

"""Files: atomic writes, checksums, downloads, bounded reading. The ground floor; imports nothing of myllm."""


class UserError(Exception):
    """A mistake of the user's: one sentence that names the mend. The command line prints it and exits 1."""

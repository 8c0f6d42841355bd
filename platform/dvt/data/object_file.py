"""`ObjectFile`: an object as an open file, for libraries that read headers and footers of files by themselves."""

import io

from dvt.data.objects import Objects


class ObjectFile(io.RawIOBase):
    """Reads what it is asked for where it is asked for it, with all that `Objects` sees to.

    Args:
        address: Of the object.
        objects: Reads it.
        most_bytes: Of one read; more raises `OSError`, as of a file that lies about its sizes.

    Raises:
        DataError: If it is not there or cannot be read; also while reading.
    """

    def __init__(self, address: str, objects: Objects, most_bytes: int) -> None:
        super().__init__()
        self.size_bytes = objects.size_and_version(address).size
        self._address, self._objects, self._most_bytes = address, objects, most_bytes
        self._place = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, fewer at the end."""
        left = max(0, self.size_bytes - self._place)
        count = left if size is None or size < 0 else min(size, left)
        if count > self._most_bytes:
            raise OSError(f"{count} bytes at once are too many")
        content = self._objects.read_range(self._address, self._place, count) if count else b""
        self._place += len(content)
        return content

    def readall(self) -> bytes:
        """All bytes from here on."""
        return self.read()

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._place = place + (0, self._place, self.size_bytes)[whence]
        return self._place

    def tell(self) -> int:
        """The place."""
        return self._place

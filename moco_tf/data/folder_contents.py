"""What lies in a folder of images: the images, and what is passed over.

Names are bytes. Nothing but folders is opened here, and, for the sentences of
`Contents.remarks`, the first bytes of a few files with other endings.
"""

import array
import collections
import errno
import os
import re

import numpy as np

from moco_tf import file_kinds
from moco_tf.data.class_folders import Remark, Tally

# Whose folder or link is passed over, and named. Others, as of a network that
# fails for a moment, must not make a folder look smaller than it is.
_PASSED_OVER = (
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)
_IMAGES_LOOKED_AT = 16  # whose first bytes are looked at
_CAUSE = 4  # one of so many must be no image to be spoken of
_ENDINGS_NAMED = 12  # in a sentence
_ENDING_LENGTH = 12  # characters; what is longer is no ending
NO_ENDING = "without an ending"
# Files of cameras, before they are developed. Many begin as a TIFF does: what a
# decoder of TIFF finds in them is a thumbnail, or the pattern of the sensor.
_RAW = frozenset(
    ".dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .raf .orf .rw2 .pef .srw "
    ".x3f .3fr .iiq .mrw .gpr .kdc .dcr .erf .mef .mos .rwl .fff".split()
)
# Of formats beside JPEG, PNG, GIF and BMP, some of which are read too.
OTHER_FORMATS = _RAW | frozenset(
    ".webp .tif .tiff .heic .heif .hif .avif .jp2 .j2k .jpx .jxl .jxr .ppm "
    ".pgm .pbm .pnm .tga .ico .svg .psd .psb .xcf .exr .hdr .dcm .dds .qoi "
    ".pcx".split()
)
_IMAGE_ENDINGS = OTHER_FORMATS | frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .pjpeg .pjp .jpg_large .jpeg_large .jpg~ .png "
    ".apng .gif .bmp .dib .raw".split()
)
_INNER = re.compile(r"\.[A-Za-z0-9]{3,5}(?=[^A-Za-z0-9])")

NOWHERE = "links that lead nowhere"
CIRCLES = "links in circles"
UNREADABLE = "entries that cannot be read"
NO_FILES = "pipes, sockets or devices"


class Contents:
    """The files below a folder.

    Attributes:
      root: bytes. images: list of bytes, sorted paths below the root.
      others: dict: ending, str -> Tally of the files left out by it.
      hidden: Tally of hidden files with the ending of an image.
      odd: dict: NOWHERE and the like -> Tally of what is passed over.
      repeated: int, images that are reached a second time, through links.
    """

    def __init__(self, root, endings):
        """Lists a folder, with all folders below it.

        Args:
          root: bytes. endings: tuple of bytes, lower case, of images.

        Raises:
          OSError: if the root cannot be listed, or a folder for a moment.
        """
        self.root = root
        self.images: list[bytes] = []
        self.others = collections.defaultdict(Tally)
        self.hidden = Tally()
        self.odd = collections.defaultdict(Tally)
        self._endings = endings
        self._identities = array.array("Q")  # device and number of each image
        self._visit(root, b"", frozenset())
        self.images.sort()
        count = min(_IMAGES_LOOKED_AT, len(self.images))
        spread = np.linspace(0, len(self.images) - 1, count).astype(int)
        self._examples = [self.images[place] for place in spread.tolist()]
        pairs = np.array(self._identities, np.uint64).reshape(-1, 2)
        self.repeated = len(pairs) - len(np.unique(pairs, axis=0))
        del self._identities

    def _visit(self, folder, prefix, above):
        """Adds what is in a folder; `above` identifies the folders it is in.

        Hidden files and folders are left out. Links are followed, but not into
        a folder that the link is in.
        """
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                self.odd[CIRCLES].add(prefix[:-1])
                return
            # Entry by entry: a folder may have a million.
            with os.scandir(folder) as listing:
                for entry in listing:
                    self._add(entry, prefix, above | {identity}, status.st_dev)
        except OSError as error:
            if not prefix or error.errno not in _PASSED_OVER:
                raise
            self.odd[UNREADABLE].add(prefix[:-1])

    def _add(self, entry, prefix, above, device):
        """Adds an entry of os.scandir."""
        name = prefix + entry.name
        is_image = name.lower().endswith(self._endings)
        if entry.name.startswith(b"."):
            if is_image:
                self.hidden.add(name)
            return
        try:
            if _is(entry.is_dir):
                self._visit(entry.path, name + b"/", above)
                return
            is_file, is_link = _is(entry.is_file), entry.is_symlink()
            identity = device, entry.inode()
            if is_link and is_file:
                identity = entry.stat().st_dev, entry.stat().st_ino
        except OSError as error:
            if error.errno not in _PASSED_OVER:
                raise
            circle = error.errno == errno.ELOOP
            self.odd[CIRCLES if circle else UNREADABLE].add(name)
            return
        if is_file and is_image:
            self.images.append(name)
            self._identities.extend(identity)
        elif is_file:
            self.others[ending_of(entry.name)].add(name)
        elif is_link and not os.path.exists(entry.path):
            self.odd[NOWHERE].add(name)
            # An image that will not be read: it keeps its place in the order,
            # is counted as unreadable, and comes back when its disk does.
            if is_image:
                self.images.append(name)
                self._identities.extend(identity)
        else:
            self.odd[NO_FILES].add(name)

    def remarks(self, formats):
        """What was passed over, counted and named.

        Args:
          formats: names of the formats that are read, as "JPEG".

        Returns:
          list of Remark.

        Side effects: reads the first bytes of a few files.
        """
        remarks = self._substitutes(formats)
        if self.others:
            remarks.append(self._other_remark())
            remarks += self._hidden_images(formats)
        for words, tally in self.odd.items():
            remarks.append(_odd_remark(words, tally))
        if self.hidden.count:
            words = f"hidden images: {self.hidden.count} ({self.hidden})"
            remarks.append(Remark("left out", words))
        if self.repeated:
            words = f"images reached a second time: {self.repeated}"
            remedy = "Each counts as often: remove the links to have it once."
            remarks.append(Remark("links", words, remedy))
        return remarks

    def _substitutes(self, formats):
        """Remarks on what lies in place of images, by a few that are opened."""
        kinds: dict[file_kinds.Kind, Tally] = collections.defaultdict(Tally)
        for name in self._examples:
            kind = self._kind(name)
            if kind and not file_kinds.is_one_of(kind, formats):
                kinds[kind].add(name)
        return [
            Remark(
                "no images",
                f"of {len(self._examples)} looked at {tally.count} are "
                f"{kind.name} ({tally})",
                kind.remedy,
            )
            for kind, tally in kinds.items()
            # A few are counted as unreadable; so many are one cause.
            if _CAUSE * tally.count > len(self._examples)
        ]

    def _other_remark(self):
        """Counts the files left out by their ending."""
        counts = sorted(
            self.others.items(),
            key=lambda item: (not _is_image(item[0]), -item[1].count, item[0]),
        )
        total = sum(tally.count for _, tally in counts)
        named = counts[:_ENDINGS_NAMED]
        words = ", ".join(f"{tally.count} {name}" for name, tally in named)
        rest = total - sum(tally.count for _, tally in named)
        if rest:
            words += f", {rest} others"
        remedy = ""
        if any(name in OTHER_FORMATS for name in self.others):
            remedy = "To train on the images among them, write them as PNG."
        words = f"files by their ending: {words}"
        return Remark("left out", words, remedy)

    def _hidden_images(self, formats):
        """A remark on files of other endings that are images all the same."""
        names, kinds = Tally(), set()
        for ending, tally in sorted(self.others.items()):
            for name in () if ending in _RAW else tally.first:
                kind = self._kind(name)
                if kind and file_kinds.is_one_of(kind, formats):
                    kinds.add(kind.name)
                    names.add(name)
        if not names.count:
            return []
        words = (
            "files with other endings that look like "
            f"{' and '.join(sorted(kinds))}: {names}"
        )
        remedy = (
            "Rename them to an ending that is read, or name them in a list: "
            "list:FILE refuses the endings of other formats alone, as .heic."
        )
        return [Remark("left out", words, remedy)]

    def _kind(self, name):
        """The kind of a file; None for one that cannot be read."""
        try:
            return file_kinds.kind_of_file(os.path.join(self.root, name))
        except (OSError, ValueError):
            return None


def _is(kind):
    """Whether an entry is of a kind: its method is_dir or is_file.

    They say no of a link to nothing, but raise where its way leads through a
    file, which is nothing as well.
    """
    try:
        return kind()
    except NotADirectoryError:
        return False


def _odd_remark(words, tally):
    remedies = {
        NOWHERE: "Mend or remove them; those named as images count as "
        "unreadable.",
        CIRCLES: "Remove them: they were not followed.",
        UNREADABLE: "Grant read and search permission, or move them away: "
        "their images are not used.",
        NO_FILES: "Move them away: they were not opened.",
    }
    return Remark(
        "passed over", f"{words}: {tally.count} ({tally})", remedies[words]
    )


def ending_of(name):
    """The ending of a file's name, as it is counted.

    Args:
      name: bytes, without folders.

    Returns:
      str, in lower case with its dot. Behind the ending of an image more may
      follow: of "photo.jpg.part" it is ".jpg.part"; of the address of a page,
      "photo.jpg?width=300", it is ".jpg?...". NO_ENDING where there is none.
    """
    text = os.fsdecode(name).lower()
    ending = os.path.splitext(text)[1]
    for match in _INNER.finditer(text):
        if match.group() in _IMAGE_ENDINGS:
            rest = text[match.end() :]
            if rest == ending:
                return match.group() + rest
            return f"{match.group()}{rest[0]}..."
    if len(ending) < 2 or len(ending) > _ENDING_LENGTH or " " in ending:
        return NO_ENDING
    return ending


def _is_image(ending):
    """Whether images have such an ending, alone or before another."""
    match = _INNER.match(ending + ".")
    return ending in _IMAGE_ENDINGS or (
        match is not None and match.group() in _IMAGE_ENDINGS
    )

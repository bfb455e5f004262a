"""The one way to keep things: hash, key, turns, replacing as one, sealed documents, the cache, and reading files from anywhere."""

from workbench.keeping.caching import cache_entry, cache_folder, keep, kept, prepare_compilers
from workbench.keeping.hashing import array_sha256, file_sha256, key, seal, unseal
from workbench.keeping.reading import inside, parse_json, read_bytes, read_json, read_npz, reading, regular_size
from workbench.keeping.replacing import absolute, read_pair, replace_file, replace_pair, replaced_folder, settle, storing, sweep
from workbench.keeping.turns import Setting, Turns, exclusive, lock_of, using

__all__ = ["Setting", "Turns", "absolute", "array_sha256", "cache_entry", "cache_folder", "exclusive", "file_sha256", "inside", "keep",
           "kept", "key", "lock_of", "parse_json", "prepare_compilers", "read_bytes", "read_json", "read_npz", "read_pair", "reading",
           "regular_size", "replace_file", "replace_pair", "replaced_folder", "seal", "settle", "storing", "sweep", "unseal", "using"]

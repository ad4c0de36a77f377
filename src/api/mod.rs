//! HTTP only: routes, decoding, calls of the store, encoding. (being written)

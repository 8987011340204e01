"""Generated from the .proto files beside it by `make protocol`; never edited by hand."""

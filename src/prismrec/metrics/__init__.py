"""Numbers from ranks and lists: tensors and arrays in, plain numbers out."""

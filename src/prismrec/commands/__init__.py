"""The commands of `prismrec`, one a module; `frame` holds what they share."""

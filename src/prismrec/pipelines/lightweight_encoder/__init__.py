"""Stage 3: item texts to vectors, item tower and lightweight encoder trained together."""

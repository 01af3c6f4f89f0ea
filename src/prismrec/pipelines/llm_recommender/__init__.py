"""Stage 5: the LLM recommender (HyMiRec), fine-tuned on frozen item vectors."""

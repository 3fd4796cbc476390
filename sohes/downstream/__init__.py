"""Two supervised tasks on the backbone before and after SOHES's training (paper 4.4, figure 6)."""

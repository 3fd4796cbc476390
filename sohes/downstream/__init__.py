"""What a backbone is worth in supervised tasks, before and after training (paper 4.4, figure 6)."""

"""The search: samples architectures, walks the ladder, keeps the rows, filters the front. Only here is Optuna known."""

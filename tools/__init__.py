"""Commands beyond train.py and evaluate.py. Nothing else imports this folder."""

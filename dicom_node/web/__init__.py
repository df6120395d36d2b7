"""The page and its API: where every study is, and what an operator can do about it."""

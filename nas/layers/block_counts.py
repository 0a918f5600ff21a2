"""How many keys tokens see that attend to their own block and to some of the blocks before it."""


def keys_in_blocks(tokens: int, block_size: int, others: int) -> int:
    """Keys that the first `tokens` tokens see together: the own block up to the token, and at most `others` before."""
    full, rest = divmod(tokens, block_size)
    own = full * block_size * (block_size + 1) // 2 + rest * (rest + 1) // 2
    few = min(full, others + 1)
    picked_by_full = few * (few - 1) // 2 + (full - few) * others
    picked = picked_by_full * block_size + rest * min(full, others)
    return own + picked * block_size

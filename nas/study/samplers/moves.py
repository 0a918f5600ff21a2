"""The moves of structured evolution: each makes another network of one, a crossing makes one of two.

Where the space offers several depths (or periods of a pattern), blocks that come in or go may change it.
"""

from collections.abc import Callable
from random import Random

from nas.study.samplers.genome import Choices, Genome, stem_of


def swap(genome: Genome, choices: Choices, random: Random) -> Genome:
    """Two blocks change places."""
    blocks = list(genome.blocks)
    if len(blocks) > 1:
        i, j = random.sample(range(len(blocks)), 2)
        blocks[i], blocks[j] = blocks[j], blocks[i]
    return genome.with_blocks(blocks)


def insert(genome: Genome, choices: Choices, random: Random) -> Genome:
    """New blocks, or copies of neighbours, come in; those behind move on.

    Half of the time the network grows to the next larger number of blocks, where there is one; else one block comes in
    and the last falls off.
    """
    blocks = list(genome.blocks)
    if not blocks:
        return genome
    larger = [n for n in genome.lengths(choices) if n > len(blocks)]
    grows = bool(larger) and random.random() < 0.5
    number = larger[0] - len(blocks) if grows else 1
    start = random.randrange(len(blocks))
    copies = [blocks[(start + i) % len(blocks)] for i in range(number)]
    at = random.randint(0, len(blocks)) if grows else random.randrange(len(blocks))
    blocks[at:at] = [{}] * number if random.random() < 0.5 else copies
    return genome.with_length(larger[0], blocks) if grows else genome.with_blocks(blocks)


def delete(genome: Genome, choices: Choices, random: Random) -> Genome:
    """Blocks go; those behind move up.

    Half of the time the network shrinks to the next smaller number of blocks, where there is one; else one block goes
    and the space asks for a new last one.
    """
    blocks = list(genome.blocks)
    smaller = [n for n in genome.lengths(choices) if n < len(blocks)]
    if smaller and random.random() < 0.5:
        number = len(blocks) - smaller[-1]
        at = random.randrange(len(blocks) - number + 1)
        del blocks[at : at + number]
        return genome.with_length(smaller[-1], blocks)
    if len(blocks) > 1:
        del blocks[random.randrange(len(blocks))]
        blocks.append({})
    return genome.with_blocks(blocks)


def copy_motif(genome: Genome, choices: Choices, random: Random) -> Genome:
    """Two to four neighbouring blocks are written over others."""
    blocks = list(genome.blocks)
    length = min(random.randint(2, 4), len(blocks) - 1)
    if length > 0:
        start, target = random.sample(range(len(blocks) - length + 1), 2)
        blocks[target : target + length] = blocks[start : start + length]
    return genome.with_blocks(blocks)


def change_option(genome: Genome, choices: Choices, random: Random) -> Genome:
    """One choice of a block or of the whole becomes another one; a network that gets longer repeats itself."""
    params = genome.params()
    able = [name for name in params if len(choices.get(name, ())) > 1]
    if not able:
        return genome
    name = random.choice(able)
    changed = random.choice([choice for choice in choices[name] if choice != params[name]])
    if name == genome.length_name:
        return genome.with_length(int(str(changed)), genome.blocks)
    return Genome.of(params | {name: changed})


def resplit_heads(genome: Genome, choices: Choices, random: Random) -> Genome:
    """One head more or fewer goes to the first mixer of a block's pair; without such a block, another option."""
    params = genome.params()
    able = [n for n in params if stem_of(n)[0].endswith("heads") and stem_of(n)[1] and len(choices.get(n, ())) > 1]
    if not able:
        return change_option(genome, choices, random)
    name = random.choice(able)
    order = sorted(int(str(choice)) for choice in choices[name])
    at = order.index(int(str(params[name])))
    near = [order[i] for i in (at - 1, at + 1) if 0 <= i < len(order)]
    return Genome.of(params | {name: random.choice(near)})


Move = Callable[[Genome, Choices, Random], Genome]
MOVES: dict[str, Move] = {
    "swap": swap,
    "insert": insert,
    "delete": delete,
    "copy_motif": copy_motif,
    "change_option": change_option,
    "resplit_heads": resplit_heads,
}


def cross(first: Genome, second: Genome, random: Random) -> Genome:
    """The front of one network and the back of the other; choices of the whole, the depth too, come from either."""
    whole = {**second.whole, **first.whole}
    whole |= {
        name: random.choice((first.whole[name], second.whole[name])) for name in first.whole if name in second.whole
    }
    name = first.length_name
    length = len(first.blocks) if name is None else int(str(whole[name]))
    if name is None or name not in second.whole:
        front, back = first, second
    else:
        front, back = first.with_length(length, first.blocks), second.with_length(length, second.blocks)
    cut = random.randint(0, len(front.blocks))
    return Genome(whole, front.places, front.blocks).with_blocks((*front.blocks[:cut], *back.blocks[cut:]))

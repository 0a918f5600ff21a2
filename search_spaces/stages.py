"""Early, middle and late layers of a stack."""


def stage_of(layer: int, num_layers: int) -> str:
    """The stage of a layer: about a third each, early and late alike; two layers have no middle, one has only that."""
    edge = (num_layers + 1) // 3
    if layer < edge:
        return "early"
    return "late" if layer >= num_layers - edge else "middle"

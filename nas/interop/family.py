"""What a table of a family says: which fields give the options of its parts, and which tensors their parameters.

A table is data: names of fields, names of tensors, and the few sums between them. There is no class per model, and
what a table does not name is refused (`Fields.refuse_unread`, `Weights.refuse_unread`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nas.architecture import Architecture, ArchitectureError, Block, FfnOptions, HeadMix, MixerOptions, NoFfn, NoMixer
from nas.architecture.options import Options
from nas.architecture.yaml_form import MAX_BLOCKS
from nas.interop.errors import InteropError
from nas.interop.fields import Fields, Reader, always
from nas.interop.tensors import Source, rows


@dataclass(frozen=True, kw_only=True)
class Part:
    """A mixer or an FFN of a family.

    kind: of ours. prefix: what its tensors begin with within a layer. norm, post_norm: modules of the norms before and
    after it, within a layer; none where None. options: how each option is read; groups: readers of several at once.
    tensors: parameter or module of ours -> source, within `prefix`, or what makes it from the options. parts: of a
    HeadMix. skip, scale: of the block.
    """

    kind: type[Options]
    prefix: str = ""
    norm: str | None = None
    post_norm: str | None = None
    normed_residual: bool = False
    options: Mapping[str, Reader] = field(default_factory=dict)
    groups: tuple[Reader, ...] = ()
    tensors: Mapping[str, Source | Callable[[Any], Source]] = field(default_factory=dict)
    parts: tuple["Part", ...] = ()
    skip: Reader = always(1.0)
    scale: Reader = always(1.0)

    def but(self, **changes: Any) -> "Part":
        """With other fields; options and tensors are added to those that are there."""
        for name in ("options", "tensors"):
            if name in changes:
                changes[name] = {**getattr(self, name), **changes[name]}
        return replace(self, **changes)

    @property
    def placement(self) -> str:
        """Where the norm stands, as `Block` calls it."""
        if self.normed_residual:
            return "residual"
        if self.norm is None:
            return "post"
        return "pre" if self.post_norm is None else "sandwich"

    def read(self, fields: Fields, layer: int) -> Options:
        """The options of ours for one layer."""
        given = {name: reader(fields, layer) for name, reader in self.options.items()}
        for group in self.groups:
            given |= group(fields, layer)
        if self.parts:
            given["parts"] = tuple(part.read(fields, layer) for part in self.parts)
        return self.kind(**given)

    def source(self, name: str, options: Options) -> Source:
        """Where the parameter `name` of ours, of a part with these options, comes from; names within a layer."""
        if isinstance(options, HeadMix) and name.startswith("parts."):
            _, number, inner = name.split(".", 2)
            return self.parts[int(number)].source(inner, options.parts[int(number)])
        module, _, leaf = name.rpartition(".")
        found = self.tensors.get(name, self.tensors.get(module))
        if found is None:
            raise InteropError(f"The table of this model type names no tensor for {name} of a {self.kind.kind}.")
        if not isinstance(found, Source):
            found = found(options)
        if name not in self.tensors:
            found = found.of(leaf)
        return Source(tuple(self.prefix + name for name in found.names), found.join)


NO_MIXER, NO_FFN = Part(kind=NoMixer), Part(kind=NoFfn)


@dataclass(frozen=True, kw_only=True)
class Place:
    """One block of ours: the layer of theirs that it is read from, its parts, and what else the block has.

    own: parameters of this use of the block alone, by our names, from tensors by their whole names.
    """

    layer: int
    mixer: Part
    ffn: Part
    wiring: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Source] = field(default_factory=dict)


def a_block_per_layer(family: "Family", fields: Fields) -> list[Place]:
    """The usual places."""
    layers = range(family.num_layers(fields, 0))
    parts = (family.parts(fields, layer) for layer in layers)
    return [Place(layer=layer, mixer=mixer, ffn=ffn) for layer, (mixer, ffn) in zip(layers, parts, strict=True)]


def _one_kind(fields: Fields, layer: int) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the models of one type are read.

    mixers, ffns: parts by the words that `mixer_of` and `ffn_of` read for a layer. places: which blocks of ours the
    layers are. network: options of the architecture. embedding, layers, embedding_norm (where there is one), last_norm,
    head: names of tensors, `{}` for the number of a layer. norms: how the weights of the norms of the residual stream
    are taken. expected: fields without a counterpart and the values at which they change nothing. inert: further fields
    that never do. spellings: (pattern, name in this table) for names of tensors that have changed. derived: last words
    of the names of tensors that follow from the configuration.
    """

    mixers: Mapping[str, Part]
    ffns: Mapping[str, Part]
    mixer_of: Reader = _one_kind
    ffn_of: Reader = _one_kind
    num_layers: Reader
    places: Callable[["Family", Fields], list[Place]] = a_block_per_layer
    network: Mapping[str, Reader]
    embedding: str = "model.embed_tokens.weight"
    layers: str = "model.layers.{}."
    last_norm: str = "model.norm"
    embedding_norm: str = ""
    head: str = "lm_head.weight"
    norms: Any = rows
    parallel: bool = False
    expected: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    inert: tuple[str, ...] = ()
    spellings: tuple[tuple[str, str], ...] = ()
    derived: tuple[str, ...] = ()

    def but(self, **changes: Any) -> "Family":
        """With other fields; those of `network` and `expected` are added to what is there."""
        for name in ("network", "expected"):
            if name in changes:
                changes[name] = {**getattr(self, name), **changes[name]}
        return replace(self, **changes)

    def parts(self, fields: Fields, layer: int) -> tuple[Part, Part]:
        """The mixer and the FFN of a layer. Raises InteropError for a word that the family does not know."""
        found = []
        for known, reader, what in ((self.mixers, self.mixer_of, "mixer"), (self.ffns, self.ffn_of, "FFN")):
            word = reader(fields, layer)
            if word not in known:
                raise InteropError(
                    f"config.json asks for the {what} {word!r} in layer {layer}, which is not understood for a "
                    f"{fields.model_type} model (understood: {', '.join(sorted(map(repr, known)))})."
                )
            found.append(known[word])
        return found[0], found[1]

    def read(self, fields: Fields) -> Architecture:
        """The architecture that the fields describe; every field must be understood. Raises InteropError."""
        fields.layer_prefix = self.layers
        for name, allowed in self.expected.items():
            fields.expect(name, *allowed)
        try:
            depth = self.num_layers(fields, 0)
            if depth > MAX_BLOCKS:
                raise InteropError(f"config.json asks for {depth} layers, but there may be at most {MAX_BLOCKS}.")
            blocks = tuple(self._block(fields, place) for place in self.places(self, fields))
            network = {name: reader(fields, 0) for name, reader in self.network.items()}
            architecture = Architecture(name=fields.model_type, blocks=blocks, **network)
        except InteropError:
            raise
        except ArchitectureError as error:
            raise InteropError(f"config.json of a {fields.model_type} model cannot be one of ours: {error}") from None
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise InteropError(
                f"config.json of a {fields.model_type} model has a field of the wrong form "
                f"({type(error).__name__}: {error})."
            ) from None
        fields.refuse_unread(self.inert)
        return architecture

    def _block(self, fields: Fields, place: Place) -> Block:
        layer, mixer, ffn = place.layer, place.mixer, place.ffn
        built = mixer.read(fields, layer), ffn.read(fields, layer)
        assert isinstance(built[0], MixerOptions) and isinstance(built[1], FfnOptions)
        wiring: dict[str, Any] = {"parallel": self.parallel}
        for name, part in (("mixer", mixer), ("ffn", ffn)):
            if part.kind not in (NoMixer, NoFfn):
                placement = "pre" if self.parallel else part.placement
                wiring |= {f"{name}_norm": placement, f"{name}_skip": part.skip(fields, layer)}
                wiring[f"{name}_scale"] = part.scale(fields, layer)
        return Block(mixer=built[0], ffn=built[1], **{**wiring, **place.wiring})

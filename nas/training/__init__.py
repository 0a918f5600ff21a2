"""Training: the recipe, the learning rates, and `fit`."""

from nas.training.errors import NonFiniteLoss as NonFiniteLoss
from nas.training.fit import Device as Device
from nas.training.fit import evaluate as evaluate
from nas.training.fit import fit as fit
from nas.training.rates import learning_rates as learning_rates
from nas.training.recipe import Recipe as Recipe
from nas.training.recipe import RecipeError as RecipeError
from nas.training.recipe import recipe_from as recipe_from
from nas.training.result import TrainResult as TrainResult

"""Settings of an optimizer: resolved from a preset, a config or tables, and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from ddn_core.config import Baseline, Config, CurvatureConfig, FallbackTable, FirstOrder, GroupConfig, StepConfig
from ddn_core.config.presets import PresetName, chosen_tables, rules_with_defaults, with_defaults
from ddn_core.errors import ArgumentError
from ddn_core.plugins.resolve import validated


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings of an optimizer, beyond its parameters.

    Attributes:
        groups: Tables of the groups, as they were given.
        curvature: Settings of the curvature.
        rules: Rules for a step that raises the loss, or is not finite.
        fallback: Optimizer of torch for parameters outside of all groups; `None` if there is none.
    """

    groups: Sequence[Mapping[str, Any] | GroupConfig]
    curvature: CurvatureConfig
    rules: StepConfig
    fallback: Baseline | None

    @classmethod
    def of(
        cls,
        groups: Config | Sequence[Mapping[str, Any] | GroupConfig] | None,
        lr: float,
        preset: PresetName | None,
        settings: Mapping[str, Any],
        curvature: CurvatureConfig | Mapping[str, Any] | None,
        step: StepConfig | Mapping[str, Any] | None,
        fallback: FirstOrder | Mapping[str, Any] | None,
    ) -> Self:
        """Return the settings that the arguments of an optimizer stand for.

        Args:
            groups: Tables of the groups, or a config; `None` for the group of a preset.
            lr: Factor on the step, for groups without their own.
            preset: Name of the preset; `None` for the default one, or for none if there are groups.
            settings: Settings of the preset's group, which take precedence.
            curvature: Settings of the curvature; by default those of the config or the preset.
            step: Rules for a step that raises the loss, or is not finite; by default those of the config or the preset.
            fallback: Optimizer of torch for parameters outside of all groups; by default that of the config.

        Raises:
            ArgumentError: Arguments exclude each other, the preset is unknown, or the config has no groups.
            ConfigError: A curvature, step or fallback table is wrong.
        """
        if isinstance(groups, Config):
            _check_config(groups, lr)
            curvature, step = curvature or groups.curvature, step or groups.step
            fallback, groups = fallback or groups.fallback, groups.groups
        if groups is None:
            tables = chosen_tables(preset, settings)
            curvature = with_defaults(curvature, tables["curvature"])
            step = rules_with_defaults(step, tables["step"])
            groups = cast("Sequence[Mapping[str, Any]]", tables["groups"])
        elif preset is not None or settings:
            extra = "preset" if preset is not None else next(iter(settings))
            raise ArgumentError(f"groups and {extra} are both given. Write the settings of each group into its table.")
        return cls(
            groups=groups,
            curvature=validated(CurvatureConfig, curvature or {}, "curvature"),
            rules=validated(StepConfig, step or {}, "step"),
            fallback=validated(FallbackTable, {"fallback": fallback}, "optimizer").fallback,
        )


def _check_config(config: Config, lr: float) -> None:
    """Raise unless our optimizer can be made from a config.

    Raises:
        ArgumentError: A learning rate is given in addition, or the config names an optimizer of torch.
    """
    if lr != 1.0:
        raise ArgumentError(
            f"lr = {lr!r} is given in addition to a config. Set the learning rate of each group in the config."
        )
    if config.optimizer is not None:
        raise ArgumentError(
            f"the config names {config.optimizer.kind!r} of torch as its optimizer. Use a config with groups."
        )

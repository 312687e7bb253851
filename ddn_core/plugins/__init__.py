"""Strategies and problems as plugins: contract, hooks, discovery, registry.

strategy.py     base classes of criteria and dampings (checks.py: what they may return)
units.py        what a field's number is measured in
callables.py    plain functions with ViViT's signatures as strategies
problem.py      base class of problems: what `ddn train` trains
hookspecs.py    the hooks that a plugin implements
discovery.py    entry points -> plugins, one by one, so that a broken one harms no other
permission.py   which plugins may be loaded
registry.py     kind -> class
reference.py    AnyCriterion, AnyDamping, AnyProblem: field types that look a kind up in the registry
describe.py     classes and fields as a reader of a config knows them
resolve.py      table, callable or object -> a group's own strategy
"""

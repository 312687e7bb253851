"""Strategies and problems as plugins: contract, hooks, discovery, registry.

component.py    base class of criteria, dampings and problems: kind, fields, config table
strategy.py     base classes of criteria and dampings (checks.py: checks on the tensors that they return)
units.py        units of fields
callables.py    plain functions with ViViT's signatures as strategies
problem.py      base class of problems, which `ddn train` trains
hookspecs.py    the hooks that a plugin implements
discovery.py    entry points -> plugins, loaded one by one, so that a broken plugin affects no other
containment.py  protection of the process from what plugins print and leave behind
permission.py   restrictions on the plugins that may be loaded
registry.py     kind -> class
reference.py    AnyCriterion, AnyDamping, AnyProblem: field types that look a kind up in the registry
messages.py     validation errors as lines with a path, a message and the nearest valid name
sizes.py        limits on the nesting of tables and on their integers
describe.py     types, units and defaults of fields as text for the reader of a config
resolve.py      table, function or object -> a strategy that belongs to one group
"""

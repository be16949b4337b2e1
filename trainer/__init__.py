"""The trainer of contourd's models: archives -> a data set -> a bundle -> how good it is.

``curation``, ``training`` and ``evaluation`` are one command each (training also compares recipes); beside them stands
what several of them share: cases, names of structures, reports, files that are there whole. These shared
modules import nothing of the three packages. Of contourd the trainer imports what reads images and runs models, never
the queue, the network or the settings of a node.
"""

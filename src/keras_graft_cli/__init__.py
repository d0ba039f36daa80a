"""The command `keras-graft`.

A package of its own, as importing anything of `keras_graft` imports Keras, which takes seconds: no
module here imports either before a command runs. So help, the version and completion are quick.
"""

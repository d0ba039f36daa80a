"""`python -m keras_graft_cli`."""

from keras_graft_cli.main import main

main()

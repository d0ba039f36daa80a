"""`python -m keras_graft`: the command `keras-graft`."""

from keras_graft_cli.main import main

if __name__ == "__main__":
    main()

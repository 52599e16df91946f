"""The program that runs in RecBole's environment, `python -I process FOLDER`: see __main__.py."""

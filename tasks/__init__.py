"""Verbs: what is done, each from folders to a folder. No prefect, no mlflow, no boto3 here."""

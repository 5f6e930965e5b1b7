#!/usr/bin/env bash
# Run by PostgreSQL's image when its volume is empty: a role and a database each, closed to the other; `reader` sees
# MLflow's and changes nothing.
set -euo pipefail
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres \
  -v prefect_word="$PREFECT_DATABASE_PASSWORD" -v mlflow_word="$MLFLOW_DATABASE_PASSWORD" \
  -v reader_word="$READER_DATABASE_PASSWORD" <<'SQL'
CREATE ROLE prefect LOGIN PASSWORD :'prefect_word';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_word';
CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE mlflow OWNER mlflow;
REVOKE ALL ON DATABASE prefect FROM PUBLIC;
REVOKE ALL ON DATABASE mlflow FROM PUBLIC;
CREATE ROLE reader LOGIN PASSWORD :'reader_word';
GRANT CONNECT ON DATABASE mlflow TO reader;
GRANT pg_read_all_data TO reader;
SQL

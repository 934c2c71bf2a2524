#!/usr/bin/env bash
# Starts the team's MLflow server: runs and users in PostgreSQL, artifacts through the server, a password for each user.
# The container of compose.yaml runs this file, and so does a machine without containers. docs/team-server.md explains.
set -euo pipefail

required() {
    [[ -n "${!1:-}" ]] || { echo "serve.sh: error: $1 is not set: $2" >&2; exit 2; }
}

required PGHOST "the machine of PostgreSQL"
required PGUSER "the user of the database"
required PGDATABASE "the database of runs and users, which must exist"
required PGPASSWORD "the password of PGUSER"
required MLFLOW_ARTIFACTS_DESTINATION "a folder, or s3://BUCKET, for the artifacts"
required MLFLOW_SERVER_ALLOWED_HOSTS "the names that clients use, with the port, as in mlflow.example.org:5000"
required MLFLOW_FLASK_SERVER_SECRET_KEY "a long random text that stays the same, as from: openssl rand -hex 32"
required MLFLOW_AUTH_ADMIN_USERNAME "the name of the first user, who creates the others"
required MLFLOW_AUTH_ADMIN_PASSWORD "the first password of that user, 12 characters or more"

# No password in a URI: the driver reads PGPASSWORD, so that neither `ps` nor an error message shows it.
database="postgresql+psycopg://$PGUSER@$PGHOST:${PGPORT:-5432}/$PGDATABASE"

# `%` would begin an interpolation in the file.
export MLFLOW_AUTH_CONFIG_PATH="${MLFLOW_AUTH_CONFIG_PATH:-$PWD/basic_auth.ini}"
cat >"$MLFLOW_AUTH_CONFIG_PATH" <<EOF
[mlflow]
default_permission = ${DEFAULT_PERMISSION:-EDIT}
database_uri = ${database//%/%%}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = ${PASSWORD_CACHE_SECONDS:-60}
EOF

export MLFLOW_BACKEND_STORE_URI="$database"
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false # 2 processes instead of 9; no job is used here
export MLFLOW_DISABLE_TELEMETRY=true
exec "${PYTHON:-python3}" -m mlflow server --app-name basic-auth \
    --host "${MLFLOW_HOST:-127.0.0.1}" --port "${MLFLOW_PORT:-5000}" --workers "${MLFLOW_WORKERS:-2}" \
    --artifacts-destination "$MLFLOW_ARTIFACTS_DESTINATION" --allowed-hosts "$MLFLOW_SERVER_ALLOWED_HOSTS"

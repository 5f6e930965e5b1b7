"""The page to browse: models, versions, results and runs in a browser, rendered on the server (docs/browse.md).

app.py        puts it together; every module in pages/ that has a `router` is a part of it
pages/        one page a module, with a template of its name; pages/api.py says the same as JSON
guards.py     what every request must pass: its host, its rate, its size, and the headers of the answer
access.py     who is asking, and what that role may do
shelf.py      models and versions as the pages show them; collection.py results, prefect_api.py runs
static/       styles and a few lines of script; vendor/ holds what others wrote, each with its licence
"""

"""A poll as tutorials write it: FastAPI, dependencies, an async session of SQLAlchemy, models loaded and serialised."""

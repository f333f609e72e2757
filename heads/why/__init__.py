"""Why a head says what it says of an image: where in the image its score comes from."""

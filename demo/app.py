"""The page on Hugging Face Spaces, whose doorkeeper is theirs: it listens to everyone."""

import os

from ibot_demo.server import serve

if __name__ == "__main__":
    serve(os.environ.get("IBOT_DEMO_MODEL", "tiny"), host="0.0.0.0", port=7860, share=False)

"""Write templates/template.schema.json from the declared model of a template.

python tools/template_schema.py
"""

import json
from pathlib import Path

from llm_dit.prompts.template_files import front_matter_schema

if __name__ == "__main__":
    target = Path(__file__).parent.parent / "templates/template.schema.json"
    target.write_text(json.dumps(front_matter_schema(), indent=2) + "\n")

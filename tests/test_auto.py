"""transformers' Auto classes and pipelines know our names once the package is imported."""

import subprocess
import sys

import pytest
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.pipelines import PIPELINE_REGISTRY

from liminal_hf import LiminalConfig, LiminalForPADRegression, LiminalModel, PADRegressionPipeline
from liminal_hf.auto import register


def test_the_names_lead_to_our_classes() -> None:
    config = AutoConfig.for_model("liminal", pooled_size=8, latent_size=16)
    assert type(config) is LiminalConfig
    assert type(AutoModel.from_config(config)) is LiminalModel
    assert type(AutoModelForSequenceClassification.from_config(config)) is LiminalForPADRegression
    task = PIPELINE_REGISTRY.check_task("pad-regression")[1]
    assert task["impl"] is PADRegressionPipeline


def test_registering_again_changes_nothing() -> None:
    tasks = PIPELINE_REGISTRY.get_supported_tasks()
    register()
    assert PIPELINE_REGISTRY.get_supported_tasks() == tasks
    assert type(AutoConfig.for_model("liminal")) is LiminalConfig


@pytest.mark.parametrize("statement", ["import liminal_hf", "from liminal_hf.modeling.heads import HEADS"])
def test_importing_the_package_is_enough(statement: str) -> None:
    code = f"{statement}\nfrom transformers import AutoConfig\nprint(type(AutoConfig.for_model('liminal')).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "LiminalConfig", done.stderr


COSTS = """
import sys, time
def seconds(statement):
    start = time.process_time()
    exec(statement, globals())
    return time.process_time() - start
print(seconds("from transformers import AutoModel"), seconds("import liminal_hf"))
print(*sorted(name for name in ("transformers.modeling_utils", "transformers.pipelines") if name in sys.modules))
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline
from transformers.pipelines import PIPELINE_REGISTRY
config = liminal_hf.LiminalConfig(pooled_size=8, latent_size=16)
print(*(type(auto.from_config(config)).__name__ for auto in (AutoModel, AutoModelForSequenceClassification)))
print(PIPELINE_REGISTRY.check_task("pad-regression")[1]["impl"].__name__)
"""


def test_importing_the_package_costs_next_to_nothing_until_a_model_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", COSTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    costs, loaded, models, task = done.stdout.splitlines()
    theirs, ours = map(float, costs.split())
    assert ours < 0.3, f"{ours} s beside {theirs} s for AutoModel"
    assert not loaded and models == "LiminalModel LiminalForPADRegression" and task == "PADRegressionPipeline"
    # Nor does the command line, before a command runs.
    alone = "import liminal_hf.cli, sys; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done

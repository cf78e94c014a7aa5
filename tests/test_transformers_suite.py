"""transformers' own tests of a model and of a config, run on ours with two families of encoders, nightly with six.

`--all-families` runs all six at once.
"""

import unittest
from typing import Any
from unittest import mock

import pytest
import torch
import transformers_suite
from conftest import OPTIONS as ASKED
from conftest import VOCABULARY, tiny_config
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from liminal_hf import LiminalConfig, LiminalForPADRegression, LiminalModel

try:
    ModelTesterMixin, ConfigTester = transformers_suite.load()
except (RuntimeError, ImportError) as error:
    pytest.skip(f"transformers' own tests are not at hand: {error}", allow_module_level=True)


class LiminalConfigTester(ConfigTester):
    """The suite gives a config five labels and then three; ours must be told what they are called."""

    def create_and_test_config_with_num_labels(self) -> None:
        config = self.config_class(**self.inputs_dict, num_labels=3)
        self.parent.assertEqual(len(config.id2label), 3)
        self.parent.assertEqual(len(config.label2id), 3)
        with self.parent.assertRaisesRegex(ValueError, "targets="):
            config.num_labels = 5


# What a model of each family is built with: the default, and every option that adds parameters.
OPTIONS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"pooled_layers": "mix"},
    "gpt2": {"token_attention": True},
    "bloom": {"pooled_layers": "all"},
    "modernbert": {"pooling": "attention"},
    "t5": {"pooled_layers": "all", "token_attention": True, "pooling": "attention"},
}


def nightly(test: type) -> type:
    """Marks a test that only the nightly run, or `--all-families`, runs."""
    return test if ASKED["all_families"] else pytest.mark.nightly(test)


class LiminalModelTester:
    """What `ModelTesterMixin` asks for: a config, inputs, and a few sizes."""

    is_training = True
    batch_size = 5
    seq_length = 9
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4

    def __init__(self, family: str) -> None:
        self.family = family

    def get_config(self) -> LiminalConfig:
        text_config = tiny_config(self.family)
        # The suite draws any tokens where it gives no mask, and padding without a mask is an error with us.
        # RoBERTa can't do without a padding token (its positions count from there); 5 is one that is never drawn there.
        text_config.pad_token_id = 5 if self.family == "roberta" else None
        if self.family == "modernbert":
            text_config.max_position_embeddings = 512  # one test runs 1.5 times as many tokens
        return LiminalConfig(text_config=text_config, latent_size=16, num_outer_steps=3, **OPTIONS[self.family])

    def prepare_config_and_inputs_for_common(self) -> tuple[LiminalConfig, dict[str, torch.Tensor]]:
        ids = torch.randint(6, VOCABULARY, (self.batch_size, self.seq_length))
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class LiminalSuite(ModelTesterMixin):
    """The suite with nothing left out; a subclass names the family."""

    family: str
    all_model_classes = (LiminalModel, LiminalForPADRegression)
    _is_composite = True
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self) -> None:
        self.model_tester = LiminalModelTester(self.family)
        # Tests that look a model up by its type find ours like one of the library.
        patch = mock.patch.dict(MODEL_MAPPING_NAMES, {"liminal": "LiminalModel"})
        patch.start()
        self.addCleanup(patch.stop)

    def _prepare_for_class(
        self, inputs_dict: dict[str, Any], model_class: type, return_labels: bool = False
    ) -> dict[str, Any]:
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and model_class is LiminalForPADRegression:
            inputs["labels"] = torch.linspace(-1, 1, 3 * self.model_tester.batch_size).view(-1, 3)
        return inputs

    def test_config(self) -> None:
        tester = LiminalConfigTester(
            self,
            config_class=LiminalConfig,
            common_properties=["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"],
            latent_size=16,
            label_std=[0.2, 0.3, 0.4],
            **OPTIONS[self.family],
        )
        tester.run_common_tests()


class BertTest(LiminalSuite, unittest.TestCase):
    family = "bert"


class GPT2Test(LiminalSuite, unittest.TestCase):
    family = "gpt2"


@nightly
class RobertaTest(LiminalSuite, unittest.TestCase):
    family = "roberta"


@nightly
class BloomTest(LiminalSuite, unittest.TestCase):
    family = "bloom"


@nightly
class ModernBertTest(LiminalSuite, unittest.TestCase):
    family = "modernbert"


@nightly
class T5Test(LiminalSuite, unittest.TestCase):
    family = "t5"

"""How effects of choices are measured: ranks, losses, and means with standard errors."""

import json
import math
import pathlib
import struct
import tempfile
import unittest

import quickstart_nets


class QuickstartNets(unittest.TestCase):
    def test_images_are_judged_by_rank_and_loss(self):
        rows = [[0.5, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05], [0.2, 0.4, 0.4, 0.0, 0.0, 0.0, 0.0]]
        values = [value for row in rows for value in row]
        header = json.dumps({"scores": {"shape": [2, 7], "data_offsets": [0, 56]}}).encode()
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "posteriors"
            path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<14f", *values))
            scored = quickstart_nets.Scored(path)
        first, second = scored.judged([6, 1])
        self.assertEqual(first[:2], (100, 100))  # of two equals the other one comes first
        self.assertEqual(second[:2], (0, 0))
        self.assertAlmostEqual(first[2], -math.log(0.05), places=6)
        with self.assertRaises(ValueError):
            scored.judged([6])

    def test_an_effect_is_the_mean_over_networks_and_its_error_that_over_images(self):
        effect = quickstart_nets.Effect("what")
        before = [(100, 0, 1.0)] * 4
        effect.add(before, [(0, 0, 0.5), (100, 0, 1.0), (100, 0, 1.0), (100, 0, 1.0)])
        effect.add(before, [(0, 0, 0.5), (0, 100, 1.0), (100, 0, 1.0), (100, 0, 1.0)])
        # Top-1, image by image, averaged over the networks: -100, -50, 0, 0.
        mean, error = -37.5, math.sqrt(sum((x + 37.5) ** 2 for x in (-100, -50, 0, 0)) / 3 / 4)
        self.assertIn(f"{mean:+.1f} +- {error:.1f} (-50.0 .. -25.0)", effect.row())

    def test_networks_are_trained_in_an_order_that_has_their_starts(self):
        trained = {}
        for net in quickstart_nets.nets("224,256,384,256..512"):
            self.assertTrue(set(net.start[1:]) <= set(trained), net)
            trained[net.run] = net.tests
        self.assertEqual(len(trained), 7)
        self.assertEqual(trained["a-256"], [224, 256, 288])
        self.assertEqual(trained["d-384"], [352, 384, 416])
        self.assertEqual(trained["e-256..512"], [256, 384, 512])


if __name__ == "__main__":
    unittest.main()

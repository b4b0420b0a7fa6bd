# SPDX-License-Identifier: Apache-2.0
"""What leaves the house: generators and synthetic sets as folders that others can use."""

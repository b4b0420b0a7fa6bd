# SPDX-License-Identifier: Apache-2.0
"""Images of patients read out of updates: by a server that chose the model, and by name.

The client's engine is the real one: gradients of each patient are averaged, clipped and summed,
noise is added and each step is booked by the code that trains. What the adversary chooses, sees and
knows stands at the top of each module.
"""

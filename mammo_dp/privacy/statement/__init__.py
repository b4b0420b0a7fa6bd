# SPDX-License-Identifier: Apache-2.0
"""Privacy statements: whose data were used, what each patient may rely on, and its verification."""

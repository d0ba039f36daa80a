"""See where a network computes, and what a smaller input saves."""

import keras

import keras_graft as kg

model = keras.applications.MobileNetV2(weights=None)
report = kg.costs(model, by="stage")
print(report)
print(f"{report.total.multiply_adds:,} multiply-adds, {report.total.flops:,} flops")

open_size = keras.applications.MobileNetV2(weights=None, include_top=False)
for size in (224, 160, 96):
    total = kg.costs(open_size, input_shape=(size, size, 3)).total
    print(f"{size} x {size}: {total.multiply_adds:,} multiply-adds")

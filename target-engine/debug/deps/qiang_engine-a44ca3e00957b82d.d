/work/dev/target-engine/debug/deps/qiang_engine-a44ca3e00957b82d.d: engine/src/lib.rs engine/src/actor/mod.rs engine/src/actor/log.rs engine/src/actor/turn.rs engine/src/batch.rs engine/src/codec.rs engine/src/command.rs engine/src/early.rs engine/src/ids.rs engine/src/limits.rs engine/src/order.rs engine/src/promotion.rs engine/src/record.rs engine/src/replica.rs engine/src/routing.rs engine/src/seen.rs engine/src/shard/mod.rs engine/src/shard/apply.rs engine/src/shard/attempts.rs engine/src/shard/decide.rs engine/src/shard/decide_cart.rs engine/src/shard/decide_order.rs engine/src/shard/decide_promotion.rs engine/src/shard/digest.rs engine/src/shard/due.rs engine/src/shard/index.rs engine/src/shard/moves.rs engine/src/shard/orders.rs engine/src/shard/slab.rs engine/src/shard/snapshot.rs engine/src/shard/texts.rs engine/src/shard/usage.rs

/work/dev/target-engine/debug/deps/libqiang_engine-a44ca3e00957b82d.rmeta: engine/src/lib.rs engine/src/actor/mod.rs engine/src/actor/log.rs engine/src/actor/turn.rs engine/src/batch.rs engine/src/codec.rs engine/src/command.rs engine/src/early.rs engine/src/ids.rs engine/src/limits.rs engine/src/order.rs engine/src/promotion.rs engine/src/record.rs engine/src/replica.rs engine/src/routing.rs engine/src/seen.rs engine/src/shard/mod.rs engine/src/shard/apply.rs engine/src/shard/attempts.rs engine/src/shard/decide.rs engine/src/shard/decide_cart.rs engine/src/shard/decide_order.rs engine/src/shard/decide_promotion.rs engine/src/shard/digest.rs engine/src/shard/due.rs engine/src/shard/index.rs engine/src/shard/moves.rs engine/src/shard/orders.rs engine/src/shard/slab.rs engine/src/shard/snapshot.rs engine/src/shard/texts.rs engine/src/shard/usage.rs

engine/src/lib.rs:
engine/src/actor/mod.rs:
engine/src/actor/log.rs:
engine/src/actor/turn.rs:
engine/src/batch.rs:
engine/src/codec.rs:
engine/src/command.rs:
engine/src/early.rs:
engine/src/ids.rs:
engine/src/limits.rs:
engine/src/order.rs:
engine/src/promotion.rs:
engine/src/record.rs:
engine/src/replica.rs:
engine/src/routing.rs:
engine/src/seen.rs:
engine/src/shard/mod.rs:
engine/src/shard/apply.rs:
engine/src/shard/attempts.rs:
engine/src/shard/decide.rs:
engine/src/shard/decide_cart.rs:
engine/src/shard/decide_order.rs:
engine/src/shard/decide_promotion.rs:
engine/src/shard/digest.rs:
engine/src/shard/due.rs:
engine/src/shard/index.rs:
engine/src/shard/moves.rs:
engine/src/shard/orders.rs:
engine/src/shard/slab.rs:
engine/src/shard/snapshot.rs:
engine/src/shard/texts.rs:
engine/src/shard/usage.rs:

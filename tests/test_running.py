from softprompt_core.running import Order


def test_every_epoch_has_every_row_once_in_a_new_order():
    order = Order(10, batch_size=4, seed=0)
    epochs = [[row for _ in range(3) for row in order.next()] for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]


def test_a_restored_order_goes_on_where_it_was():
    order = Order(10, batch_size=4, seed=3)
    for _ in range(5):
        order.next()
    again = Order(10, batch_size=4, seed=99)
    again.restore(*order.state())
    assert [again.next() for _ in range(9)] == [order.next() for _ in range(9)]

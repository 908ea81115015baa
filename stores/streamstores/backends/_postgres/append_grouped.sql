-- $11 the number of the append in its group
--
-- Returns the row after the mutation; nothing if the append was refused, or if another transaction
-- holds its row. Such an append is repeated alone.
SELECT $11::int AS number, true AS applied, {columns} FROM applied

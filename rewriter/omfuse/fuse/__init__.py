"""From a proven attention block to one FlashAttention node, and from that node to other forms."""

// The independent flash model of cocotbext-qspi with the four pins of single-lane SPI.
`timescale 1ns/1ps

module qspi_wrapper(input wire clk, input wire cs, input wire copi, output wire cipo);
    wire [3:0] io;
    assign io[0] = copi;
    assign cipo = io[1];
    qspi_flash #(.MEM_DEPTH(65536), .PROGRAM_NS(2000), .ERASE_NS(5000)) flash(.clk(clk), .csb(~cs), .io(io));
endmodule

// The cells of an ECP5's pins as FPGA-TN-02035 describes them, with times: for simulation of what is at the pins.
`timescale 1ps / 1ps

// Output at double rate: D0 and D1 are taken at a rise of SCLK; D0 is on the pin while SCLK is high, D1 while it is low.
module ODDRX1F (
    input SCLK, RST, D0, D1,
    output Q
);
    reg first = 0, second = 0;
    always @(posedge SCLK or posedge RST)
        if (RST) {first, second} <= 0;
        else {first, second} <= {D0, D1};
    assign Q = SCLK ? first : second;
endmodule

// Input at double rate: Q0 and Q1 change with a rise of SCLK, to what D had at the rise before and at the fall after that. A D
// that changes within SETUP before or HOLD after an edge is taken as anything.
module IDDRX1F (
    input SCLK, RST, D,
    output reg Q0 = 0, output reg Q1 = 0
);
    parameter SETUP = 300;
    parameter HOLD = 300;
    reg earlier = 0, rise = 0, fall = 0, rise_edge = 0, rise_before = 0, fall_edge = 0, fall_before = 0;
    always @(D) earlier <= #(SETUP) D;
    always @(posedge SCLK) begin
        rise_edge = D;
        rise_before = earlier;
        #(HOLD) rise = (D == rise_edge && rise_before == rise_edge) ? rise_edge : $urandom & 1'b1;
    end
    always @(negedge SCLK) begin
        fall_edge = D;
        fall_before = earlier;
        #(HOLD) fall = (D == fall_edge && fall_before == fall_edge) ? fall_edge : $urandom & 1'b1;
    end
    always @(posedge SCLK or posedge RST)
        if (RST) {Q0, Q1} <= 0;
        else {Q0, Q1} <= {rise, fall};
endmodule

// Delay of a pin: 25 ps a step.
module DELAYG (
    input A,
    output reg Z = 0
);
    parameter DEL_MODE = "USER_DEFINED";
    parameter DEL_VALUE = 0;
    always @(A) Z <= #(25 * DEL_VALUE) A;
endmodule

// A wire of the board, or the way of a clock into the device; it delays by ``ps``.
module wire_delay #(parameter WIDTH = 1) (
    input [WIDTH-1:0] a,
    input [19:0] ps,
    output reg [WIDTH-1:0] z = 0
);
    always @(a) z <= #(ps) a;
endmodule

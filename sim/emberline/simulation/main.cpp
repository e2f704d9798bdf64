// Main program of a simulated bench: runs the clock at full speed while the bench asks for it, and serves VPI (that is,
// Python) only while the bench stands still.
//
// The bench has two inputs, `clk` and `load`, and one output, `running`. Python raises `running` by writing the bench's
// registers, which take effect with a pulse on `load`; the bench lowers it by itself when its stop condition holds.
// Between the two no callback is looked at: that is what makes a cycle cost two evaluations of the model and nothing
// else.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>

#include "Vbench.h"
#include "verilated.h"
#include "verilated_vpi.h"

#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

extern "C" void vlog_startup_routines_bootstrap(void);

namespace {

constexpr uint64_t kHalfPeriod = 5;  // nanoseconds: cycles are 10 ns long in waves

class Simulation {
public:
    explicit Simulation(VerilatedContext& context) : m_context{context}, m_top{new Vbench{&context, ""}} {}

    void open_trace(const char* path) {
#if VM_TRACE
        m_context.traceEverOn(true);
        m_trace.reset(new VerilatedVcdC);
        m_top->trace(m_trace.get(), 99);
        m_trace->open(path);
#else
        (void)path;
#endif
    }

    void run() {
        vlog_startup_routines_bootstrap();
        VerilatedVpi::callCbs(cbStartOfSimulation);
        settle_value_callbacks();
        do {
            serve();
            trace();
        } while (!m_context.gotFinish() && advance());
        m_top->final();
        VerilatedVpi::callCbs(cbEndOfSimulation);
#if VM_TRACE
        if (m_trace) m_trace->close();
#endif
    }

private:
    static void settle_value_callbacks() {
        while (VerilatedVpi::callValueCbs()) {}
    }

    // One time step as cocotb expects it: values settle, then its read-write and its read-only phase.
    void serve() {
        do {
            do {
                m_top->eval();
                VerilatedVpi::clearEvalNeeded();
                VerilatedVpi::doInertialPuts();
                settle_value_callbacks();
            } while (VerilatedVpi::evalNeeded());
            VerilatedVpi::callCbs(cbReadWriteSynch);
            VerilatedVpi::doInertialPuts();
            settle_value_callbacks();
        } while (VerilatedVpi::evalNeeded());
        VerilatedVpi::callCbs(cbReadOnlySynch);
    }

    // Clocks the bench, or jumps to the next timer when it stands still. False when nothing can happen any more.
    bool advance() {
        const uint64_t deadline = VerilatedVpi::cbNextDeadline();
        if (m_top->running) {
            m_top->load = 1;
            m_top->eval();
            m_top->load = 0;
            do {
                half_cycle(1);
                half_cycle(0);
            } while (m_top->running && m_context.time() < deadline && !m_context.gotFinish());
        } else if (deadline == std::numeric_limits<uint64_t>::max()) {
            return false;
        } else {
            m_context.time(std::max<uint64_t>(deadline, m_context.time()));
        }
        VerilatedVpi::callCbs(cbNextSimTime);
        settle_value_callbacks();
        VerilatedVpi::callTimedCbs();
        settle_value_callbacks();
        return true;
    }

    void half_cycle(uint8_t clk) {
        m_context.timeInc(kHalfPeriod);
        m_top->clk = clk;
        m_top->eval();
        trace();
    }

    void trace() {
#if VM_TRACE
        if (m_trace) m_trace->dump(m_context.time());
#endif
    }

    VerilatedContext& m_context;
    std::unique_ptr<Vbench> m_top;
#if VM_TRACE
    std::unique_ptr<VerilatedVcdC> m_trace;
#endif
};

}  // namespace

int main(int argc, char** argv) {
    VerilatedContext& context = *Verilated::threadContextp();  // the one that VPI uses
    context.commandArgs(argc, argv);
    context.fatalOnVpiError(false);  // cocotb probes for things that a model need not have
    Simulation simulation{context};
    for (int i = 1; i + 1 < argc; ++i) {
        if (std::strcmp(argv[i], "--trace-file") == 0) simulation.open_trace(argv[i + 1]);
    }
    simulation.run();
    return context.errorCount() > 0 ? 1 : 0;
}

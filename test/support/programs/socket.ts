/** Joins its input and output with a Unix socket. */
import { connect } from "node:net"

const socket = connect(process.argv[2] ?? "")
process.stdin.pipe(socket)
socket.pipe(process.stdout)
socket.on("error", (error) => {
  console.error(error.message)
  process.exitCode = 1
})
